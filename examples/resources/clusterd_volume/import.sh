# namespace/name
terraform import clusterd_volume.data default/data
