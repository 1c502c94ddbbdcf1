resource "clusterd_config" "web" {
  name = "web"
  data = {
    log_level  = "info"
    "web.conf" = <<-EOT
      listen 8080
      root /srv
    EOT
  }
}

# Containers find it as variables and as files. A change is a rollout of the
# app; when that fails, the app and the config are as before again.
resource "clusterd_app" "web" {
  name    = "web"
  image   = "nginx:1.27"
  configs = { LOG_LEVEL = "${clusterd_config.web.name}/log_level" }
  files   = { "/etc/web/web.conf" = { config = "${clusterd_config.web.name}/web.conf" } }
}
