"""Running flows on a cluster: MongoDB, FireWorks workers and the batch queue."""
