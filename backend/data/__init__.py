"""From files to rows: read, check, fix and split. No tensors."""
