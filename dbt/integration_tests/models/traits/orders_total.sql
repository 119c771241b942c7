{{ config(aggregate='sum', event='Order Completed') }}
-- depends_on: {{ ref('orders') }}
(properties->>'total')::numeric
