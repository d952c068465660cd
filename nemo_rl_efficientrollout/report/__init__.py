"""The HTML report of a run: one file, readable offline, on a phone and on paper."""

from nemo_rl_efficientrollout.report.html import write_report

__all__ = ["write_report"]
