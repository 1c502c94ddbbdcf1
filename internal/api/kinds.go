package api

// Kinds lists every kind: one table drives routes, OpenAPI, CLI and docs.
// A new kind is one file and one line here.
var Kinds = []AnyKind{
	Namespaces,
	Apps,
	Jobs,
	Pods,
	Volumes,
	Services,
	Configs,
	Secrets,
	Contents,
	EndpointSlices,
	Nodes,
	Servers,
	Images,
	EventRings,
	Roles,
	Tokens,
}
