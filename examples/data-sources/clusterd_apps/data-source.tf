data "clusterd_apps" "shop" {
  labels = { team = "shop" }
}

output "not_ready" {
  value = [for name, app in data.clusterd_apps.shop.apps : name if app.ready < app.replicas]
}
