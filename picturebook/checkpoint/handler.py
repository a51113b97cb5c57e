# Called by Inference Endpoints of the Hub.
from endpoint_handler_gill import EndpointHandler

__all__ = ["EndpointHandler"]
