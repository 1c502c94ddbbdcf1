output "repository" {
  value = provider::clusterd::parse_image("registry.local:5000/shop/api:2.4.1").repository # shop/api
}
