terraform {
  required_providers {
    clusterd = {
      source = "clusterd/clusterd"
    }
  }
}

# Address and credentials come from CLUSTERD_ADDR, CLUSTERD_TOKEN and CLUSTERD_CACERT.
provider "clusterd" {}

resource "clusterd_app" "web" {
  name     = "web"
  image    = var.image
  replicas = var.replicas
  cpu      = "100m"
  memory   = "64Mi"
  env      = var.env
  ports    = { http = 80 }
  health   = { http = "/healthz" }
}

resource "clusterd_service" "web" {
  name  = "web"
  app   = clusterd_app.web.name
  ports = { http = { port = 80, node_port = var.node_port } }
}

data "clusterd_nodes" "all" {}
