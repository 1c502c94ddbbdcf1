package api

// ImageProgress is one line of the answer to POST /v1/images. The last line
// names no node and says how it ended: done or failed.
type ImageProgress struct {
	Node    string   `json:"node,omitempty"`
	Status  string   `json:"status" enum:"received,loading,done,failed"`
	Message string   `json:"message,omitempty"`
	Images  []string `json:"images,omitempty" doc:"References of what was in the upload."`
}

// Steps of an image's way to the nodes.
const (
	ImageReceived = "received"
	ImageLoading  = "loading"
	ImageDone     = "done"
	ImageFailed   = "failed"
)
