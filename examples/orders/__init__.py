"""An order shop in three services, as a user of hopspan writes it: on Kafka, and on RabbitMQ."""
