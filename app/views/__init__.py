"""Drawing helpers: values in, pixels out."""
