"""The page with tables, figures and pictures: `python -m eval.report`."""
