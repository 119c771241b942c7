{{ config(materialized='cdp_source', mapping={
    'type': 'identify', 'key': 'id', 'identifiers': {'user_id': 'id', 'email': 'email'}, 'traits': ['plan']}) }}
select id, email, plan from {{ ref('raw_customers') }}
