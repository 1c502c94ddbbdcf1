resource "clusterd_namespace" "this" {
  name        = var.name
  description = var.description
  quota       = var.quota
  defaults    = var.defaults
  powers      = var.powers
}
