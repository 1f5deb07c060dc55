"""The studio: Streamlit pages over run folders."""
