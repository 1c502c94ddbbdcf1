resource "clusterd_app" "web" {
  name   = "web"
  image  = "nginx:1.27"
  ports  = { http = 80 }
  health = { http = "/" }
}

# A virtual IP and a name inside the cluster, and a port of every node outside.
resource "clusterd_service" "web" {
  name  = "web"
  app   = clusterd_app.web.name
  ports = { http = { port = 80, node_port = 30080 } }
}

output "url" {
  value = "http://${clusterd_service.web.dns_name}"
}
