resource "clusterd_app" "web" {
  name     = "web"
  image    = "nginx:1.27"
  replicas = 3
  cpu      = "100m"
  memory   = "64Mi"
  ports    = { http = 80 }
  health   = { http = "/" }
}

# Every knob.
resource "clusterd_app" "api" {
  name      = "api"
  namespace = clusterd_namespace.shop.name
  image     = "registry.local/shop/api:2.4.1"
  command   = ["/api"]
  args      = ["serve"]
  replicas  = 4
  cpu       = "500m"
  memory    = "512Mi"
  ports     = { http = 8080, metrics = 9090 }
  env       = { LOG_LEVEL = "info", PORT = 8080 }
  labels    = { team = "shop" }

  health = {
    http         = "/healthz"
    port         = "http"
    interval     = "5s"
    timeout      = "2s"
    grace_period = "30s"
    threshold    = 3
  }

  sidecars = {
    logs = { image = "registry.local/vector:0.40", memory = "64Mi" }
  }

  placement = { spread = "zone", require = { disk = "ssd" } }

  update = {
    max_parallel  = 2
    surge         = 1
    min_available = 3
    healthy_for   = "15s"
    deadline      = "5m"
    on_failure    = "rollback"
  }

  stop     = { signal = "SIGTERM", grace_period = "20s" }
  timeouts = { create = "10m", update = "15m", delete = "5m" }
}

resource "clusterd_namespace" "shop" {
  name = "shop"
}
