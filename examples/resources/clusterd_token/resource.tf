# Who deploys the shop from outside of the cluster.
resource "clusterd_role" "shop" {
  name = "shop-deployer"
  rules = {
    deploy = {
      namespaces = ["shop"]
      kinds      = ["apps", "services"]
      verbs      = ["read", "write", "delete"]
    }
  }
}

# Better made in the same run, and put where it is used by a write-only argument:
#   ephemeral "random_password" "ci" {
#     length  = 48
#     special = false
#   }
variable "ci_secret" {
  type      = string
  sensitive = true
  ephemeral = true
  default   = "1Xk3TbT7pU0vQy8sE5nR2wLd9cZfGhJmAaBbCcDdEeFfGgHh"
}

# The token is "ct_ci_${var.ci_secret}": neither state nor cluster have it.
resource "clusterd_token" "ci" {
  name        = "ci"
  description = "Deploys the shop from CI."
  roles       = [clusterd_role.shop.name]
  secret_wo   = var.ci_secret
}
