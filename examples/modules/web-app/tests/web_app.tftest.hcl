variables {
  name        = "module-web"
  image       = "nginx:1.0"
  command     = ["sh", "-c", "trap exit QUIT; httpd -f -p 8080 -h /srv/www & wait"] # needs no powers, unlike nginx
  health_path = "/"
}

run "serves" {
  assert {
    condition     = clusterd_app.this.replicas == 2 && clusterd_app.this.security.read_only_root
    error_message = "The app is not what the platform insists on."
  }
  assert {
    condition     = startswith(output.dns_name, "module-web.") && output.virtual_ip != ""
    error_message = "The service has no name or no address."
  }
}

run "scales_instead" {
  variables {
    scale = { max = 4 }
  }
  assert {
    condition     = clusterd_app.this.replicas == null && clusterd_app.this.scale.min == 2
    error_message = "replicas and scale are both set."
  }
}

run "refuses_latest" {
  command = plan
  variables {
    image = "nginx"
  }
  expect_failures = [var.image]
}

run "refuses_one_replica" {
  command = plan
  variables {
    replicas = 1
  }
  expect_failures = [var.replicas]
}
