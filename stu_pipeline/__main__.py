"""`python -m stu_pipeline`: the same as `stu`."""

from __future__ import annotations

from stu_pipeline.cli import main

if __name__ == "__main__":
    main()
