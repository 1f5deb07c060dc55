"""The studio: Streamlit pages over run folders. It remembers nothing; F0 and the managers are all it imports."""
