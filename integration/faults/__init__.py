"""What the fault tests are made of: a consumer to kill, a network to cut, an account of both.

- `proxy`: stands between a consumer and the broker, reads along, and cuts connections on demand.
- `worker`: the consumer, in a process of its own, which writes down every handler run.
- `journal`: what workers write, so that it survives their death, and how it is read.
- `chaos`: publishes, starts workers, kills them, cuts them, until every message is dealt with.
- `verdict`: from all these records, whether hopspan kept its promises.

These are RabbitMQ's, but for `journal` and `waiting`. Kafka's begin with `kafka_`; more of them are:

- `kafka_ledger`: what is written down, as values.
- `kafka_topics`, `kafka_commit_log`: records, dead letters and commits, as the broker has them.
- `kafka_sampler`: looks at what is committed all the while.
- `kafka_rates`: what each commit strategy costs.
"""
