-- Whose an id is, where a body names one in a field that Bursar does not know: asked by the id alone.

CREATE INDEX made_id_by_id ON bursar.made_id (id);
