data "clusterd_service" "web" {
  name = "web"
}

output "address" {
  value = data.clusterd_service.web.virtual_ip
}
