resource "clusterd_namespace" "shop" {
  name        = "shop"
  description = "The web shop; ask #shop."
}

# A reference makes the namespace first, and destroys it last.
resource "clusterd_app" "web" {
  name      = "web"
  namespace = clusterd_namespace.shop.name
  image     = "nginx:1.27"
}
