"""Files on disks and in buckets: complete or not there, copied, read again when disks fail."""
