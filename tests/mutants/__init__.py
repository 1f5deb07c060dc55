"""Faults planted by hand, and the tests that must notice each of them; `make mutants` plants them one by one."""
