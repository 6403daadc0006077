"""The benchmarks: `make bench`. Every figure stands beside its peers', measured in the same run on the same machine.

`fanout`, `reads` and `rebuild` measure; `servers` are what is measured, real processes; `load` is who asks, two small C
programs that cost less than what they measure; `report` writes `RESULTS.md` and the chart.
"""
