{{ config(materialized='cdp_source', mapping={
    'event': 'Order Completed', 'key': 'id', 'identifiers': {'user_id': 'who'}, 'time': 'at',
    'cursor': 'loaded_at', 'properties': {'total': 'total'}}) }}
select id, who, total, at, loaded_at from raw.orders
