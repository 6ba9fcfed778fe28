"""What an evaluation leaves: records, tables, pictures."""
