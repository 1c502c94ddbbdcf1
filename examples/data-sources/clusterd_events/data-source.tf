data "clusterd_events" "web" {
  kind = "app"
  name = "web"
}

output "warnings" {
  value = [for e in data.clusterd_events.web.events : e.message if e.warning]
}
