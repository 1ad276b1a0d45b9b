"""What hopspan costs, beside hand-written instrumentation and the existing packages. See docs/benchmarks.md."""
