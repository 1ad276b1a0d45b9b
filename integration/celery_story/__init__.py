"""What the Celery tests are made of: an application, processes of it, and what they leave behind.

- `settings`: what every process of a story is told.
- `sink`: a tracer provider that writes finished spans down, in batches as in production.
- `shop`: the application, with its tasks; what `celery -A` names.
- `web`: a long-lived process that publishes, on demand.
- `stage`: starts these processes, waits for them, ends them, reads what they wrote.
- `brokers`: what is in a queue, as the broker has it.
- `trees`: spans as trees of values, to be compared with what is expected.
- `fates`: every way in which a task can end badly, gone through with one worker.
"""
