"""From records to tables: rows of runs, cells, their text, and the published numbers beside them."""
