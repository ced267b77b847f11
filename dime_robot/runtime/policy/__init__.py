"""An exported policy: its file, its certificates, and its inference session."""
