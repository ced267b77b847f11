"""What is measured while a policy runs, and recordings replayed."""
