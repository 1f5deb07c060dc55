"""From weights to words: what is loaded, prompted, decoded and looked into."""
