"""Reports as one HTML file each: what they consist of, how it is drawn and written; tables in Markdown; no lungs."""
