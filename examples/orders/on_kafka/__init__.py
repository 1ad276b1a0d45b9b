"""The shop on Kafka, with kafka-python."""
