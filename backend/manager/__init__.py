"""The control wing: it starts, watches and keeps runs. It imports the ground floor only, never torch or Streamlit."""
