"""Go or no-go for this machine, before a job takes its GPUs. One file per kind of check."""

from .examination import examine
from .finding import Finding, is_go
from .job import Job, read_job

__all__ = ["Finding", "Job", "examine", "is_go", "read_job"]
