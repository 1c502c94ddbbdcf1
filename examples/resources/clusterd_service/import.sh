# namespace/name
terraform import clusterd_service.web default/web
