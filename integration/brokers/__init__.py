"""Brokers for the integration suite and the demo: found, started, waited for and stopped.

    scripts/brokers up|down|status [service ...]

For each service the first of these that applies is used:

1. an endpoint in the environment (`TEST_RABBITMQ_URL`, ...): checked, never started or stopped;
2. a container engine that answers, with docker-compose.test.yml;
3. a program on this machine, as a private instance with its own name, ports and data: RabbitMQ and
   Redis from their packages, Kafka from Maven Central on a Java 17, Tansu from a wheel in .venv;
4. for Kafka, the embedded broker Tansu, marked with `TEST_KAFKA_EMBEDDED=1`.

`up` prints `export NAME=value` lines for a shell to eval on stdout, all else goes to stderr.
`down` stops exactly what `up` of the same checkout started: no process, port or folder is left.
What is installed or fetched once stays: packages, and the jars in the user's cache.
Standard library only: this runs before there is a virtual environment.
"""
