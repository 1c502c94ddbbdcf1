terraform import clusterd_config.web default/web
