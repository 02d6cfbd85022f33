"""ALIGN: training a classifier to look at the evidence, on digits and on PACS."""
