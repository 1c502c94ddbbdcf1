# namespace/name
terraform import clusterd_app.web default/web
