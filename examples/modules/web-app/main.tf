resource "clusterd_app" "this" {
  namespace = var.namespace
  name      = var.name
  image     = var.image
  command   = var.command
  replicas  = var.scale == null ? var.replicas : null
  scale     = var.scale
  cpu       = var.cpu
  memory    = var.memory
  env       = var.env
  secrets   = var.secrets
  ports     = { http = var.port }
  health    = { http = var.health_path }
  security  = { read_only_root = true, drop = ["ALL"] }
  mounts    = { for path, size in merge({ "/tmp" = "64Mi" }, var.writable) : path => { scratch = size } }
}

resource "clusterd_service" "this" {
  namespace = var.namespace
  name      = var.name
  app       = clusterd_app.this.name
  ports     = { http = { port = 80, target = "http", node_port = var.node_port } }
}
