{{ config(materialized='cdp_source', mapping={
    'event': 'Order Completed', 'key': 'id', 'identifiers': {'user_id': 'customer_id'}, 'time': 'ordered_at',
    'filter': "status = 'paid'", 'properties': {'total': 'total'}}) }}
select id, customer_id, total, status, ordered_at from {{ ref('raw_orders') }}
