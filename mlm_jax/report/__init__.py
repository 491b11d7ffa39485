"""Reports: the HTML page of a run, comparisons of runs, and tables for the terminal."""

from mlm_jax.report.page import write_report
from mlm_jax.report.sections import map_section, retrieval_section, save_sections
from mlm_jax.report.table import LanguageRow, language_rows, language_table, task_tables, transfer_table

__all__ = [
    "LanguageRow",
    "language_rows",
    "language_table",
    "map_section",
    "retrieval_section",
    "save_sections",
    "task_tables",
    "transfer_table",
    "write_report",
]
