"""Reports as one HTML file each: what they consist of, and how it is drawn and written; nothing about lungs."""
