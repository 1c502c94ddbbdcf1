package api

import "fmt"

// Images are loaded by hand, for machines without a registry.
var Images = &Kind[*Image]{
	Name: "Image", Plural: "images", Aliases: []string{"image"}, Scope: Cluster, Derived: true,
	Doc: "A container image loaded by hand onto nodes.",
	Columns: []Column[*Image]{
		{Name: "REFERENCE", Of: func(i *Image) string { return i.Spec.Reference }},
		{Name: "DIGEST", Of: func(i *Image) string { return short(i.Spec.Digest) }},
		{Name: "NODES", Of: func(i *Image) string { return fmt.Sprint(len(i.Spec.Nodes)) }},
		{Name: "AGE", Of: func(i *Image) string { return Age(i.Meta.CreatedAt) }},
	},
}

// Image is an image loaded by hand. Its name is made from the reference.
type Image = Object[ImageSpec, ImageStatus]

// ImageSpec says what was loaded, and where.
type ImageSpec struct {
	Reference string   `json:"reference" doc:"Full reference, such as docker.io/library/nginx:1.27."`
	Digest    string   `json:"digest"`
	Size      int64    `json:"size,omitempty" doc:"Bytes."`
	Nodes     []string `json:"nodes,omitempty" doc:"Nodes that have it."`
}

// Validate reports every violation.
func (s ImageSpec) Validate() error {
	var errs Errors
	errs.Add("reference", checkImage(s.Reference))
	return errs.Err()
}

// WithDefaults returns s.
func (s ImageSpec) WithDefaults() ImageSpec { return s }

// ImageStatus is empty: an image is all spec.
type ImageStatus struct{}

func short(digest string) string { return digest[:min(len(digest), 19)] }

// NodeImages are the images one node has: the answer to GET …/nodes/{name}/images.
type NodeImages struct {
	Items []NodeImage `json:"items"`
}

// NodeImage is one of them.
type NodeImage struct {
	Reference string `json:"reference" doc:"Full reference, such as docker.io/library/nginx:1.27."`
	Digest    string `json:"digest"`
	Size      int64  `json:"size" doc:"Bytes."`
}

// ImageProgress is one line of the answer to POST /v1/images, and to DELETE /v1/images. The last line
// names no node and says how it ended: done or failed.
type ImageProgress struct {
	Node    string   `json:"node,omitempty"`
	Status  string   `json:"status" enum:"received,loading,removing,done,failed"`
	Message string   `json:"message,omitempty"`
	Images  []string `json:"images,omitempty" doc:"References of what was in the upload."`
}

// Steps of an image's way to the nodes.
const (
	ImageReceived = "received"
	ImageLoading  = "loading"
	ImageRemoving = "removing"
	ImageDone     = "done"
	ImageFailed   = "failed"
)
