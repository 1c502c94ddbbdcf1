# What no rule gives is denied. Whoever applies this has to have all of it.
resource "clusterd_role" "deployer" {
  name        = "deployer"
  description = "Deploys the shop, and looks at what runs."
  rules = {
    deploy = {
      namespaces = ["shop"]
      kinds      = ["apps", "services", "configs", "secrets"]
      verbs      = ["read", "write", "delete"]
    }
    look = {
      namespaces = ["shop"]
      kinds      = ["pods", "namespaces"] # of namespaces, its own
      verbs      = ["read", "logs"]
    }
    # Kinds that are in no namespace have rules without any.
    nodes = {
      kinds = ["nodes"]
      verbs = ["read"]
    }
  }
}
