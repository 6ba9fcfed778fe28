"""The files of an evaluation: records, tables, pictures."""
